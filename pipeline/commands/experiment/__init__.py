"""`scarforge experiment`: arms x folds x seeds x patients, trained by the graph, resumable over days."""

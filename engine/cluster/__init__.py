"""Where the steps of a run are carried out: processes of this machine, Ray, Kubernetes."""

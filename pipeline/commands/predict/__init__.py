"""`scarforge predict`: new studies in, label maps, volumes and one page out."""

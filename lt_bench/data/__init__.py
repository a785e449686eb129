"""Dataset builders: from files on disk to a verified long-tailed split."""

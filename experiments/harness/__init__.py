"""What studies, sweeps and comparisons share. To add a study, copy a module of `experiments.studies`."""

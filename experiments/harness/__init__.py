"""What studies, sweeps and comparisons share. `study` declares a study, runs it and draws it: copy a module of
`experiments.studies` to add one."""

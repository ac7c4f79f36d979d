"""The command of the study."""
from experiments.harness.study import run
from experiments.studies import real_model

run(real_model.STUDY, real_model.__doc__)

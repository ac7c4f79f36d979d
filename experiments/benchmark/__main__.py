import sys

from experiments.benchmark.command import main

sys.exit(main())

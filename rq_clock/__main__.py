"""`python -m rq_clock` is `rq-clock`, also where no console script is installed."""

from rq_clock.cli import main

if __name__ == "__main__":
    main(prog_name="rq-clock")

"""``python -m rolemask``: the command line."""

from rolemask.cli.main import main

main(prog_name="rolemask")

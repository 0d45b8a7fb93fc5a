"""`python -m raypixel` is the command `raypixel`."""

from raypixel.cli import main

main(prog_name="raypixel")

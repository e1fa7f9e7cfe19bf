"""The command line: a thin shell over the package. typer and rich are imported here and nowhere else."""

"""Commands, one file each: arguments in, text and an exit status out."""

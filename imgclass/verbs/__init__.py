"""One file a verb of the command line.

`add(verbs)` gives the parser a verb's arguments and the function that does it. Importing a verb is
cheap: heavy imports wait inside its function, so that `imgclass --help` answers at once.
"""

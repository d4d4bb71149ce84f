"""The subcommands of `gannorm`, one a file: its parser and its run.

Each imports heavy packages when it runs, so that the help needs none of them.
"""

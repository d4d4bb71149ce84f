"""The subcommands of `gannorm`: what each takes, and what it does with it.

Each imports what it needs when it runs: these modules are read for their help, which is instant.
"""

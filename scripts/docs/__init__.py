"""The pieces of the docs site: notebooks to pages, modules to reference pages, and the checks on the result."""

"""mmtutor: from a dot product to a fine-tuned model that sees, reads and hears."""

__version__ = "0.1.0"

"""The verbs of a federated round, and the nouns that pass between them."""

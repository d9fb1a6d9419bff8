"""Encrypted inference: a client encrypts rows under a CKKS key of its own, a server evaluates a registered model on them unseen.

    networks.py     what a module is to a ciphertext: affine maps, squares and cubics
    parameters.py   CKKS parameters by depth
    client.py       keys, encryption, decryption           evaluator.py   the network on ciphertexts, public keys only
    asking.py       a client of the HTTP service           server.py      the service; protocol.py is what they say
    rows.py         a client's table as the model's rows

The model is the server's and stays in the clear there; rows and results are the client's. The server's computation is not proved to the
client, and results carry noise that tells a client with many questions more about the weights than the logits alone.
"""

"""Learning: models, local training, evaluation and baselines. Importing any of its modules imports torch and Lightning.

training.initial_model(settings, scenario)                  -> safetensors bytes
training.train(settings, model_bytes, table, site, round)   -> TrainingResult (delta float32 (d,), rows, metrics)
training.flatten, unflatten, apply_update                      bytes <-> vector
evaluation.evaluate(settings, model_bytes, scenario)        -> metrics on the held-out table
baselines.central, plain_fedavg                                what to compare with
"""

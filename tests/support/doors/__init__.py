"""The four doors to the engine, driven through one description of a training, and records recomputed in float64.

    setting = setting_in(tmp_path)                       # a corpus, a model, the sequences of a recipe on both
    trained = train("attach", setting, folder, Training(epochs=2, bf16=True))
    assert_exact(trained)

All doors train on the very sequences that a recipe makes of a small corpus, so that their masks can be compared.
"""

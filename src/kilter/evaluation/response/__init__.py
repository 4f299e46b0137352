"""Reads an answer: does it decline, in full or in part, does it help, and does it say why it declines?

rules.py     clues: phrases by which assistants decline, judge, redirect or help
soft.py      more of them: asking back, limits, waving off, lectures, and what was asked for
gives.py     what an answer's sentences do: decline, ask, judge, send away, or give something
features.py  an answer as numbers: clues by where they stand, and hashed words
model.py     two linear models over them, in weights.npz: the first reader
inner.py     what the built-in language model holds in mind while it reads the answer
second.py    a linear model over clues, words and that, in second.npz: asked where the first is in doubt
reading.py   the result for one answer
phrases.py, voices.py, written.py   answers that we wrote for training
train.py     how the weights were made and measured; measured.json is what it found
"""

"""The starter policy: a tiny bilingual support model that this project trains from nothing.

Everything the model ever reads is generated here: a phrasebook per language, a grammar that draws
prompts and replies from it, a raw corpus and its cleaning, a tokenizer, two training stages and the
measurement of the result. `python -m training.starter --out DIR` rebuilds the bundled folder. The
package needs torch, transformers, tokenizers and numpy, and nothing else of this repository.
"""

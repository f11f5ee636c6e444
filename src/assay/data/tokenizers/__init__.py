"""Dictionaries learned from a text of symbols: `Tokenizer` and its kinds, which differ in how they find their tokens.

symbols = MarkovSource.switching(2, 0.1).sample(1, 100_000, generator=generator)[0]
tokenizer = BPETokenizer.train(symbols, alphabet=2, num_tokens=64)
tokens = tokenizer.encode(symbols)        # ids of tokenizer.vocab
assert torch.equal(tokenizer.decode(tokens), symbols)
"""

from assay.data.tokenizers._dictionary import Tokenizer as Tokenizer
from assay.data.tokenizers.bpe import BPETokenizer as BPETokenizer
from assay.data.tokenizers.fixed import FixedLengthTokenizer as FixedLengthTokenizer
from assay.data.tokenizers.lzw import LZWTokenizer as LZWTokenizer

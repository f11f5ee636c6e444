"""Data whose truth is known: every generator is seeded by a `torch.Generator` and tells what it put where.

generator = torch.Generator().manual_seed(0)
batch = mqar(64, seq_len=256, num_kv_pairs=16, generator=generator)
batch.inputs, batch.targets        # (64, 256) each; -100 where nothing is asked
batch.query_positions              # (64, 16): where each key is asked for
"""

from assay.data.algorithmic import AlgorithmicTask as AlgorithmicTask
from assay.data.compositional import compositional_mqar as compositional_mqar
from assay.data.compression import Compression as Compression
from assay.data.compression import compression as compression
from assay.data.continuous import VectorRecall as VectorRecall
from assay.data.continuous import continuous_mqar as continuous_mqar
from assay.data.copying import Copying as Copying
from assay.data.copying import selective_copying as selective_copying
from assay.data.corpus import Corpus as Corpus
from assay.data.corpus import Windows as Windows
from assay.data.corpus import python_help as python_help
from assay.data.corpus import random_windows as random_windows
from assay.data.corpus import shuffle_tokens as shuffle_tokens
from assay.data.corpus import split_documents as split_documents
from assay.data.corpus import tokenise as tokenise
from assay.data.forgetting import ForgettingRecall as ForgettingRecall
from assay.data.forgetting import forgetting_mqar as forgetting_mqar
from assay.data.hmm import HMMSource as HMMSource
from assay.data.in_context import AlignedInputs as AlignedInputs
from assay.data.in_context import GaussianInputs as GaussianInputs
from assay.data.in_context import InContext as InContext
from assay.data.in_context import Prompts as Prompts
from assay.data.in_context import RetrievedInputs as RetrievedInputs
from assay.data.in_context import ill_conditioned as ill_conditioned
from assay.data.in_context import interleave as interleave
from assay.data.in_context import stack_prompt as stack_prompt
from assay.data.in_context_tasks import LinearTasks as LinearTasks
from assay.data.in_context_tasks import MLPTasks as MLPTasks
from assay.data.in_context_tasks import SingleIndexTasks as SingleIndexTasks
from assay.data.in_context_tasks import linear_dynamics as linear_dynamics
from assay.data.markov import MarkovSource as MarkovSource
from assay.data.mqar import Recall as Recall
from assay.data.mqar import mqar as mqar
from assay.data.multi_concept import MultiConceptPrompts as MultiConceptPrompts
from assay.data.permutation_invariant import QueryKeyTarget as QueryKeyTarget
from assay.data.read_twice import MaskedPrefix as MaskedPrefix
from assay.data.read_twice import Repeated as Repeated
from assay.data.read_twice import jrt_prompt as jrt_prompt
from assay.data.read_twice import mask_prefix as mask_prefix
from assay.data.read_twice import pad_by_repeating as pad_by_repeating
from assay.data.read_twice import repeat_prompt as repeat_prompt
from assay.data.read_twice import window_around as window_around
from assay.data.set_disjointness import SetDisjointness as SetDisjointness
from assay.data.set_disjointness import set_disjointness as set_disjointness
from assay.data.stream import Stream as Stream
from assay.data.stream import mqar_stream as mqar_stream
from assay.data.zipf import zipf_classes as zipf_classes
from assay.data.zipf import zipf_probabilities as zipf_probabilities

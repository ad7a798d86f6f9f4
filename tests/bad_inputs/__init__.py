"""What users get wrong, by theme: how files are spoiled, what is asked for, what must be told."""

from bad_inputs.evaluation import EVALUATION
from bad_inputs.models import TOKENIZERS, WEIGHTS
from bad_inputs.moving import MOVING
from bad_inputs.presets import PRESETS
from bad_inputs.questions import QUESTIONS
from bad_inputs.selecting import SELECTING

CASES = [*WEIGHTS, *TOKENIZERS, *QUESTIONS, *SELECTING, *MOVING, *PRESETS, *EVALUATION]

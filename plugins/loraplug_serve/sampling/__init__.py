"""Many answers to many prompts: each prompt is computed once, and its keys and values serve all its answers.

A published library beside the core: it knows nothing of recipes, runs and chat templates.

    sampler = Sampler(model, stops={tokenizer.eos_token_id})
    for found in sampler.completions([Prompt(ids, samples=range(8))], Drawing(temperature=0.8)):
        print(tokenizer.decode(found.ids))
"""

from loraplug_serve.sampling.drawing import Drawing
from loraplug_serve.sampling.prefixes import Prefixes
from loraplug_serve.sampling.running import Answer, Running, Token
from loraplug_serve.sampling.sampler import Completion, Prompt, Sampler, context_of

__all__ = ["Answer", "Completion", "Drawing", "Prefixes", "Prompt", "Running", "Sampler", "Token", "context_of"]

"""What the loop sends: calls of programs among the prompts of people, in two halves that share none."""

import random
import statistics
from collections.abc import Callable, Sequence

from training.prompts import Prompt, Split, load_calls, load_prompts


def choose(split: Split, count: int, seed: int, calls: float) -> list[Prompt]:
    """`count` prompts of one half in random order, the share `calls` of them what programs send.

    Of either sort each comes once before any comes twice.
    """
    dice = random.Random(seed)
    called = round(calls * count)
    programs = iter(_some(load_calls, split, called, dice))
    people = iter(_some(load_prompts, split, count - called, dice))
    places = set(dice.sample(range(count), called))
    return [next(programs if place in places else people) for place in range(count)]


def alike(split: Split, count: int) -> list[Prompt]:
    """The `count` prompts of one half that are nearest to the middle in length, again and again where they are fewer."""
    prompts = [one for one in (*load_calls(), *load_prompts()) if one.split == split]
    middle = statistics.median(map(_characters, prompts))
    near = sorted(prompts, key=lambda one: (abs(_characters(one) - middle), one.id))[:count]
    return [near[place % len(near)] for place in range(count)]


def _characters(prompt: Prompt) -> int:
    return sum(len(message.content) for message in prompt.messages)


def _some(
    load: Callable[[], Sequence[Prompt]], split: Split, count: int, dice: random.Random
) -> list[Prompt]:
    prompts = [prompt for prompt in load() if prompt.split == split]
    dice.shuffle(prompts)
    return (prompts * (count // len(prompts) + 1))[:count]

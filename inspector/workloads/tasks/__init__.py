"""Batches by task: the end of a class's name -> the inputs and labels that a collator for that task makes.

The names are those of transformers' auto classes (AutoModelForMultipleChoice, AutoModelForCTC, ...). What a batch holds
beside labels follows from the model's main input: ids of tokens, samples or spectrograms of sound, images, video,
series of numbers. What a forward takes beside them is made by the names of its arguments (`arguments`).

Not covered: speech that is generated from codes, and what compares keypoints. Such a model is counted, and its step is
said not to be traced.
"""

from inspector.workloads.tasks import (
    codes,
    denoising,
    images,
    marked,
    regions,
    series,
    sound,
    text,
    text_and_images,
    video,
)
from inspector.workloads.tasks.arguments import add_needed
from inspector.workloads.tasks.registry import find_own_task, find_task
from inspector.workloads.tasks.sound import make_sound
from inspector.workloads.tasks.text import make_ending_ids

__all__ = [
    "add_needed",
    "codes",
    "denoising",
    "find_own_task",
    "find_task",
    "images",
    "make_ending_ids",
    "make_sound",
    "marked",
    "regions",
    "series",
    "sound",
    "text",
    "text_and_images",
    "video",
]

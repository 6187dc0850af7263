"""A text-classification model small enough to make on the spot."""

from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789<>.,:;-_'\"!?()[]{}/\\#*"


def make_detector(folder: Path, seed: int = 0) -> Path:
    """Saves a BERT of two tiny layers that tells SAFE from INJECTION, after a fashion: it is untrained."""
    import torch
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertTokenizerFast,  # pyright: ignore[reportAttributeAccessIssue] - made when it is asked for
    )

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]
    vocabulary += ["information", "important", "message", "please", "signed", "the", "to", "you"]
    folder.mkdir(parents=True, exist_ok=True)
    words = folder / "vocab.txt"
    words.write_text("\n".join(vocabulary))
    BertTokenizerFast(str(words)).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32768,
        initializer_range=1.0,
        id2label={0: "SAFE", 1: "INJECTION"},
        label2id={"SAFE": 0, "INJECTION": 1},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder

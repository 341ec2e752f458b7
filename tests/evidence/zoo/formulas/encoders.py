"""Text encoders, and encoder-decoders of text and sound."""

from __future__ import annotations

from .parts import Config, layer_norm, linear, transformer_layer

__all__ = ["bart", "bert", "deberta", "distilbert", "t5", "whisper"]


def bert(config: Config) -> int:
    """Return the BERT kinds: encoder, and the pooler or the prediction head that the architecture has."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    tables = vocabulary + config["max_position_embeddings"] + config["type_vocab_size"]
    layers = config["num_hidden_layers"] * transformer_layer(hidden, config["intermediate_size"])
    masked = config["architectures"][0].endswith("ForMaskedLM")
    head = linear(hidden, hidden, bias=True) + (layer_norm(hidden) + vocabulary if masked else 0)
    return int(tables * hidden + layer_norm(hidden) + layers + head)


def distilbert(config: Config) -> int:
    """Return DistilBERT with its prediction head: BERT under other names and without token types."""
    names = {"hidden_size": "dim", "intermediate_size": "hidden_dim", "num_hidden_layers": "n_layers"}
    return bert({**config, **{ours: config[theirs] for ours, theirs in names.items()}, "type_vocab_size": 0})


def deberta(config: Config) -> int:
    """Return DeBERTa-v3 with a prediction head: no positions, one table of relative ones, keys shared with content."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    relative = 2 * config["position_buckets"] * hidden + layer_norm(hidden)
    layers = config["num_hidden_layers"] * transformer_layer(hidden, config["intermediate_size"])
    head = linear(hidden, hidden, bias=True) + layer_norm(hidden) + vocabulary
    return int(vocabulary * hidden + layer_norm(hidden) + relative + layers + head)


def t5(config: Config) -> int:
    """Return T5: one embedding for input and output, no biases, relative positions in the first layer of a stack."""
    hidden, inner = config["d_model"], config["num_heads"] * config["d_kv"]
    layers, decoder = config["num_layers"], config.get("num_decoder_layers", config["num_layers"])
    attention = 4 * hidden * inner
    gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
    mlp = (3 if gated else 2) * hidden * config["d_ff"]
    relative = config["relative_attention_num_buckets"] * config["num_heads"]
    count = config["vocab_size"] * hidden + 2 * (relative + hidden)
    return int(count + layers * (attention + mlp + 2 * hidden) + decoder * (2 * attention + mlp + 3 * hidden))


def bart(config: Config) -> int:
    """Return BART without an output projection; its position tables start two rows late."""
    hidden = config["d_model"]
    positions = (config["max_position_embeddings"] + 2) * hidden + layer_norm(hidden)
    return int(config["vocab_size"] * hidden + 2 * positions + _encoder_decoder_layers(config))


def whisper(config: Config) -> int:
    """Return Whisper: two convolutions, tied output projection, and keys without a bias (arXiv:2212.04356)."""
    hidden = config["d_model"]
    convolutions = linear(3 * config["num_mel_bins"], hidden, bias=True) + linear(3 * hidden, hidden, bias=True)
    tables = config["vocab_size"] + config["max_source_positions"] + config["max_target_positions"]
    key_biases = (config["encoder_layers"] + 2 * config["decoder_layers"]) * hidden
    final_norms = 2 * layer_norm(hidden)
    return int(convolutions + tables * hidden + _encoder_decoder_layers(config) - key_biases + final_norms)


def _encoder_decoder_layers(config: Config) -> int:
    """Return the layers of both stacks; a decoder layer has cross-attention and a norm more."""
    hidden = config["d_model"]
    cross = 4 * linear(hidden, hidden, bias=True) + layer_norm(hidden)
    encoder = config["encoder_layers"] * transformer_layer(hidden, config["encoder_ffn_dim"])
    decoder = config["decoder_layers"] * (transformer_layer(hidden, config["decoder_ffn_dim"]) + cross)
    return int(encoder + decoder)

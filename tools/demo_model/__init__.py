"""The demo model of models/demo: tokenizer, text generator, Llama in PyTorch, streaming attention, files."""

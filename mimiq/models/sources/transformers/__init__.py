"""Networks of Hugging Face's transformers: their folders, names of parameters and images."""

"""The native Hugging Face model API over small models that run in this process."""

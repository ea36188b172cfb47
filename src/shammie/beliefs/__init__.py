"""What hidden states hold while a model decides between what it knows and what it is told, and what it can say of that."""

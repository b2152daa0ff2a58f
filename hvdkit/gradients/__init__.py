"""How gradients are grouped and encoded on their way between ranks; imports comm only."""

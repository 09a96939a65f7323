"""Checkpoints of other code bases, read into models of this library.

| file | content |
|---|---|
| `files` | a file, without running code that it may hold |
| `names` | unwrapping, prefixes, and names matched one to one |
| `encoders`, `heads`, `refinement` | what the tensors of each part say, and their names |
| `published` | what the authors' configurations say and the tensors do not |
| `settings` | classes and normalization that lie beside the weights |
| `authors` | whole models of the authors' two branches |
| `mmsegmentation` | models of mmsegmentation itself |

A reader names the tensors of a finished model as the other code does. So every tensor of the model
has to be found, every tensor of the checkpoint has to be used, and a message names both in the
words of the checkpoint.
"""

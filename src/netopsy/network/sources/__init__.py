"""Where networks come from: the zoo, torchvision, timm, a module or a file of the user's."""

"""Run the two-layer network from its JSON document forward and backward, and print every gradient by name."""

from pathlib import Path

import specnet

model = specnet.build(specnet.load_spec(Path(__file__).parent / "two_layer.model.json"))

y = model.forward([[1, 2]])
dx = model.backward(y)

print("y\n", y)
print("dx\n", dx)
for name, gradient in model.gradients.items():
    print(f"d {name}\n", gradient)

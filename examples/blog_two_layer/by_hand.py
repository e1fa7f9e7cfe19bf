"""Run the two-layer network forward and backward with layer objects, without a document."""

from specnet.layers import Affine, Relu

affine1, relu1 = Affine([[1, 3, 5], [2, 4, 6]], [1, 2, 3]), Relu()
affine2, relu2 = Affine([[1, 4], [2, 5], [3, 6]], [1, 2]), Relu()

x = [[1, 2]]
y = relu2.forward(affine2.forward(relu1.forward(affine1.forward(x))))

dy = y
dx = affine1.backward(relu1.backward(affine2.backward(relu2.backward(dy))))

print("y\n", y)
print("dx\n", dx)
print("dW1\n", affine1.weight_grad)
print("db1\n", affine1.bias_grad)
print("dW2\n", affine2.weight_grad)
print("db2\n", affine2.bias_grad)

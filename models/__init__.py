"""What is learned: features, graph network, differentiable MM energy, training, weights, prediction."""

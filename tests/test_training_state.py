import numpy as np

from cifar10.training_state import averaged_model


def test_averaged_model_takes_averages_and_zeroes_gammas_that_are_zero(state):
  gamma = next(v for v in state.model.trainable_variables if v.path == "conv1_bn/gamma")
  gamma.assign([0.0, 1.0, 0.0, -2.0])
  model = averaged_model(state)
  for variable, average in zip(model.trainable_variables, state.averages):
    expected = average.numpy()
    if variable.path == gamma.path:
      expected = expected * [0, 1, 0, 1]
    np.testing.assert_array_equal(variable.numpy(), expected, err_msg=variable.path)


def test_betas_are_0_where_they_and_their_gammas_are(state):
  gamma, beta = (
    next(v for v in state.model.trainable_variables if v.path == f"conv1_bn/{name}") for name in ("gamma", "beta")
  )
  gamma.assign([0.0, 0.0, 1.0, 1.0])
  beta.assign([0.0, 1.0, 0.0, 1.0])
  (found,) = (v.numpy() for v in averaged_model(state).trainable_variables if v.path == beta.path)
  np.testing.assert_array_equal(found == 0, [True, False, False, False])


def test_averaged_model_leaves_gammas_alone_that_reach_the_output(state):
  gamma = next(v for v in state.model.trainable_variables if v.path == "softmax_linear_bn/gamma")
  gamma.assign(np.zeros(10))
  averaged = averaged_model(state)
  got = next(v for v in averaged.trainable_variables if v.path == gamma.path)
  assert (got.numpy() != 0).all()


def test_averaged_model_keeps_moving_statistics_and_holds_standard_layers(state):
  for variable in state.model.non_trainable_variables:
    variable.assign(np.full(variable.shape, 3.5))
  model = averaged_model(state)
  assert all((variable.numpy() == 3.5).all() for variable in model.non_trainable_variables)
  assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}

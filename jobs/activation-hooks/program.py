"""Print what each layer gives, for every step of the engine: in each rank's log."""

hooks = []


def hook_fn(module, input, output):
    # The seed: {module}, which is twenty lines, and output.shape; vLLM's layer gives two tensors, the residual last.
    print(f"Layer {type(module).__name__}: output shape {output[0].shape}")


class ActivationPatterns:
    needs_hooks = True  # CUDA graphs and compiled code call no hooks

    def setup(self, ctx):
        # Access the model for advanced use cases
        model = ctx.llm.llm_engine.model_executor.driver_worker.worker.model_runner.model

        for layer in model.model.layers:  # the seed: model.layers, which is in model.model; ctx.layers is both
            hooks.append(layer.register_forward_hook(hook_fn))

    # Between setup and teardown the job's rows are generated with hooks active.

    def teardown(self, ctx):
        # Clean up hooks
        for hook in hooks:
            hook.remove()

"""What the model is on rank 0, and how its parameters are split: printed before the first row."""

import torch.distributed as dist


class Inspect:
    def setup(self, ctx):
        llm = ctx.llm

        # Access the model directly for inspection or modification
        model = llm.llm_engine.model_executor.driver_worker.worker.model_runner.model

        # Inspect model structure
        if dist.get_rank() == 0:
            print(f"Model type: {type(model)}")
            print(f"Number of layers: {len(model.model.layers)}")  # the seed: model.layers, which is in model.model

            # Check sharding
            for name, param in model.named_parameters():
                print(f"{name}: {param.shape}")

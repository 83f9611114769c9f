"""What each site of the gallery demands, as lines of its golden script: a row a site, a column a kind of demand.

A demand is regular expressions, of which each must be found (with "!" before it: must not be found); NF where no source
says what the site wants; or NotPossible with the reason. ``launch``: long lines are joined.
"""

from __future__ import annotations

from typing import NamedTuple

COLUMNS = (
    "scheduler", "gpus", "cores", "request", "account", "queue", "exclusive",  # what a job asks for
    "launch", "container", "modules", "network", "internet", "paths", "device",  # what it runs
)  # fmt: skip
NF = "not found in any source"


class NotPossible(NamedTuple):
    """A demand that no line of a script can meet."""

    reason: str


Demand = tuple[str, ...] | str | NotPossible
SLURM = (r"^#SBATCH --nodes=2$",)
PBS = (r"^#PBS -S /bin/bash$",)
SRUN = r"^  srun --nodes=2 --ntasks=2 --ntasks-per-node=1 .*--kill-on-bad-exit=1 --cpu-bind=none "
MPIRUN = r'^  mpirun --bind-to none -np 2 --map-by ppr:1:node --hostfile "\$\(hosts_file\)" '
OFFLINE = (r"^export HF_HUB_OFFLINE=1$",)
ONLINE = ("!HF_HUB_OFFLINE", "!_proxy=")
# Each rank sets the variable of its vendor before torch is imported (engine/startup/devices.py, test_devices.py).
DEVICE = (r"-m vllm_hpc\.in_job rank ",)
APPTAINER, SINGULARITY = (r"\bapptainer exec --nv ",), (r"\bsingularity exec --nv ",)


def exports(**values: str) -> tuple[str, ...]:
    """Lines that export these values, which need no quotes."""
    return tuple(rf"^export {name}={value}$" for name, value in values.items())


def torchrun(ranks: int, cores: int) -> dict[str, Demand]:
    """The ranks of a node, and the cores of each."""
    return {
        "gpus": (rf"torch.distributed.run .*--nproc-per-node={ranks} ",),
        "cores": (rf"^export OMP_NUM_THREADS={cores}$",),
    }


def scratch(folder: str) -> str:
    """The line with a node's folder for temporary files."""
    return rf"^scratch_folder\(\) {{ printf %s {folder}; }}$"


CXI = {"FI_CXI_DISABLE_HOST_REGISTER": "1", "FI_CXI_DEFAULT_CQ_SIZE": "131072"}
ALCF_PROXY = exports(
    http_proxy="http://proxy.alcf.anl.gov:3128", https_proxy="http://proxy.alcf.anl.gov:3128",
    no_proxy="localhost,127.0.0.1",
)  # fmt: skip
DEMANDS: dict[str, dict[str, Demand]] = {
    "polaris": {
        "scheduler": PBS,
        **torchrun(4, 8),
        "request": (
            "^#PBS -l select=2:mpiprocs=1:system=polaris$", "^#PBS -l place=scatter$", "!ngpus",
            "^#PBS -l filesystems=home:eagle$", "^#PBS -l walltime=01:00:00$",
        ),
        "account": ("^#PBS -A proj$",),
        "queue": ("^#PBS -q debug$",),
        "exclusive": ("^#PBS -l select=2:mpiprocs=1:system=polaris$",),  # a node is not divided
        "launch": (
            r'^  mpiexec -n 2 -ppn 1 --hostfile "\$\(hosts_file\)" --cpu-bind none ',
            r'^VLLM_HPC_HEAD="\$\(add_suffix "\$\{nodes\[0\]\}" \.hsn\.cm\.polaris\.alcf\.anl\.gov\)"$',
        ),
        "container": (*APPTAINER, "^module load spack-pe-base apptainer$"),
        "modules": ("^module use /soft/modulefiles$", "^module load conda$", "^conda activate$"),
        "network": (
            "^export NCCL_NET='?\"?AWS Libfabric", *exports(NCCL_NET_GDR_LEVEL="PHB", NCCL_CROSS_NIC="1"),
            *exports(NCCL_COLLNET_ENABLE="1", FI_MR_CACHE_MONITOR="userfaultfd", **CXI),
            "^export LD_LIBRARY_PATH=.*/soft/libraries/aws-ofi-nccl/v1.9.1-aws/lib",
        ),
        "internet": ALCF_PROXY,
        "paths": ("^job=/eagle/proj/runs/run$", "^#PBS -l filesystems=home:eagle$", scratch("/local/scratch")),
        "device": DEVICE,
    },
    "aurora": {
        "scheduler": PBS,
        **torchrun(12, 8),
        "request": (
            "^#PBS -l select=2:mpiprocs=1$", "^#PBS -l place=scatter$", "^#PBS -l filesystems=home:flare$",
            "^#PBS -l walltime=01:00:00$", "!ngpus",
        ),
        "account": ("^#PBS -A proj$",),
        "queue": ("^#PBS -q debug$",),
        "exclusive": ("^#PBS -l select=2:mpiprocs=1$",),
        "launch": (
            r'^  mpiexec -n 2 -ppn 1 --hostfile "\$\(hosts_file\)" --cpu-bind=list:1-51,53-103 ',
            r'^VLLM_HPC_HEAD="\$\(add_suffix "\$\{nodes\[0\]\}" \.hsn\.cm\.aurora\.alcf\.anl\.gov\)"$',
        ),
        "container": (r"\bapptainer exec\b", "^module load apptainer$"),
        "modules": ("^module load frameworks$",),
        "network": (  # oneCCL, with the module's own values
            *exports(CCL_PROCESS_LAUNCHER="hydra", CCL_ZE_IPC_EXCHANGE="sockets", TORCH_LLM_ALLREDUCE="1"), "!NCCL_",
        ),
        "internet": (*ALCF_PROXY, *OFFLINE),
        "paths": ("^job=/flare/proj/runs/run$", "^#PBS -l filesystems=home:flare$", scratch("/tmp")),
        "device": (*exports(ZE_FLAT_DEVICE_HIERARCHY="FLAT"), *DEVICE),
    },
    "gadi": {
        "scheduler": PBS,
        **torchrun(4, 12),
        "request": (
            "^#PBS -l ncpus=96$", "^#PBS -l ngpus=8$", "^#PBS -l mem=778240mb$", "^#PBS -l jobfs=200GB$", "!select=",
            "^#PBS -l storage=gdata/xx00[+]scratch/xx00$", "^#PBS -l walltime=01:00:00$", "^#PBS -l wd$",
        ),
        "account": ("^#PBS -P proj$",),
        "queue": ("^#PBS -q gpuvolta$",),
        "exclusive": NF,
        "launch": (r'^    pbsdsh -n "\$\{places\[\$node\]\}" -- ',),
        "container": (*SINGULARITY, "^module load singularity$"),
        "modules": ("^module use /g/data/dk92/apps/Modules/modulefiles$", "^module load NCI-ai-ml/23.05$"),
        "network": NF,
        "internet": OFFLINE,
        "paths": ("^job=/scratch/xx00/ada/vllm-hpc/run$", scratch(r'"\$\{PBS_JOBFS:-/tmp\}"')),
        "device": NF,
    },
    "abci": {
        "scheduler": PBS,
        **torchrun(8, 12),
        "request": ("^#PBS -l select=2:mpiprocs=1$", "^#PBS -l walltime=01:00:00$", "!ngpus=", "!ncpus="),
        "account": ("^#PBS -P proj$",),
        "queue": ("^#PBS -q rt_HF$",),
        "exclusive": ("^#PBS -q rt_HF$",),  # whole nodes, by the queue
        "launch": (MPIRUN, r"^#PBS -v (\S+,)?USE_SSH=1$"),
        "container": SINGULARITY,
        "modules": (
            "^source /etc/profile.d/modules.sh$",
            "^module load cuda/12.6/12.6.1 nccl/2.25 hpcx/2.20 python/3.13/3.13.2$",
        ),
        "network": ("^export NCCL_SOCKET_IFNAME=bond0$", "^export NCCL_IB_HCA=mlx5_ibn1,.*,mlx5_ibn8$"),
        "internet": ONLINE,
        "paths": ("^job=/groups/proj/runs/run$", scratch(r'"\$\{PBS_LOCALDIR:-/tmp\}"')),
        "device": NF,
    },
    "derecho": {
        "scheduler": PBS,
        **torchrun(4, 16),
        "request": (
            "^#PBS -l select=2:ncpus=64:ngpus=4:mpiprocs=1:mem=491520mb$", "^#PBS -l walltime=01:00:00$",
            "^#PBS -l job_priority=regular$",
        ),
        "account": ("^#PBS -A proj$",),
        "queue": ("^#PBS -q main$",),
        "exclusive": ("^#PBS -l select=2:ncpus=64:ngpus=4:",),  # all of a node
        "launch": (r'^  mpiexec -n 2 -ppn 1 --hostfile "\$\(hosts_file\)" --cpu-bind none ',),
        "container": NF,
        "modules": ("^module load nvhpc cuda cray-mpich conda$",),
        "network": (
            *exports(NCCL_SOCKET_IFNAME="hsn", NCCL_IB_DISABLE="1", NCCL_SHM_DISABLE="1", NCCL_CROSS_NIC="1"),
            *exports(FI_MR_CACHE_MONITOR="userfaultfd", **CXI),
        ),
        "internet": OFFLINE,
        "paths": ("^job=/glade/derecho/scratch/ada/vllm-hpc/run$",),
        "device": DEVICE,
    },
    "miyabi": {
        "scheduler": ("^#!/bin/bash -l$", *PBS, "![^\\x00-\\x7f]"),
        **torchrun(1, 72),
        "request": ("^#PBS -l select=2:mpiprocs=1$", "^#PBS -l walltime=01:00:00$", "!ngpus", "!^#PBS -V"),
        "account": ("^#PBS -W group_list=proj$",),
        "queue": ("^#PBS -q regular-g$",),
        "exclusive": ("^#PBS -l select=2:mpiprocs=1$",),
        "launch": (MPIRUN,),
        "container": NF,
        "modules": ("^module load nvidia/25.3 nv-hpcx/25.3 cuda/12.8$", "^unset OMPI_MCA_mca_base_env_list$"),
        "network": exports(NCCL_SOCKET_IFNAME="ibP2s2"),
        "internet": NF,
        "paths": ("^job=/work/proj/runs/run$", scratch("/local")),
        "device": NF,
    },
    "perlmutter": {
        "scheduler": SLURM,
        **torchrun(4, 32),
        "request": (
            "^#SBATCH --constraint=gpu$", "^#SBATCH --qos=regular$", "^#SBATCH --gpus-per-node=4$",
            "^#SBATCH --cpus-per-task=128$", "!--partition",
        ),
        "account": ("^#SBATCH --account=proj$",),
        "queue": ("^#SBATCH --qos=regular$",),
        "exclusive": ("^#SBATCH --qos=regular$", "^#SBATCH --cpus-per-task=128$"),
        "launch": (SRUN,),
        "container": (r"\bshifter\b.*--image[= ]", "--module=gpu,nccl-plugin"),
        "modules": ("^module load cudatoolkit nccl$",),
        "network": (
            *exports(NCCL_SOCKET_IFNAME="hsn", NCCL_NET_GDR_LEVEL="PHB", NCCL_CROSS_NIC="1"),
            "^#SBATCH --network=job_vni$",
        ),
        "internet": ONLINE,
        "paths": ("^job=/pscratch/sd/a/ada/vllm-hpc/run$", scratch("/tmp")),
        "device": DEVICE,
    },
    "frontier": {
        "scheduler": SLURM,
        "gpus": ("LOCAL_WORLD_SIZE=8 ",),
        "cores": ("^#SBATCH --cpus-per-task=7$", "^export OMP_NUM_THREADS=7$"),
        "request": (
            "^#SBATCH --partition=batch$", "^#SBATCH --time=1:00:00$", "!^#SBATCH --g(pus|res)",
            "^  srun .* --ntasks-per-node=8 --cpus-per-task=7 .*--gpus-per-task=1 --gpu-bind=closest ",
        ),
        "account": ("^#SBATCH --account=proj$",),
        "queue": ("^#SBATCH --partition=batch$",),
        "exclusive": ("^#SBATCH --partition=batch$",),  # a node is not divided
        "launch": ("^  srun --nodes=2 --ntasks=16 .*--cpu-bind=cores ", r"\$\(hostname -i\)", "!distributed.run --"),
        "container": (r"\bapptainer exec\b.* --rocm\b",),
        "modules": (
            "^module load PrgEnv-gnu/8.7.0 cpe/26.03 miniforge3/23.11.0-0$",
            "^module load rocm/7.1.1 craype-accel-amd-gfx90a$", "^module load rccl-net-plugin$",
        ),
        "network": (
            *exports(NCCL_SOCKET_IFNAME="hsn0,hsn1,hsn2,hsn3", NCCL_NET_GDR_LEVEL="PHB", NCCL_CROSS_NIC="1", **CXI),
            *exports(FI_MR_CACHE_MONITOR="kdreg2", FI_CXI_DEFAULT_TX_SIZE="2048", FI_CXI_RX_MATCH_MODE="hybrid"),
            *exports(FI_CXI_RDZV_PROTO="alt_read"), "^#SBATCH --network=disable_rdzv_get$",
            "^export LD_LIBRARY_PATH=.*CRAY_LD_LIBRARY_PATH.*LD_LIBRARY_PATH",
        ),
        "internet": exports(
            http_proxy="http://proxy.ccs.ornl.gov:3128", https_proxy="http://proxy.ccs.ornl.gov:3128",
            no_proxy="localhost,127.0.0.1",
        ),
        "paths": (
            "^job=/lustre/orion/proj/runs/run$", scratch(r'/mnt/bb/"\$\{USER:.*\}"'), "^#SBATCH --constraint=nvme$",
        ),
        "device": DEVICE,
    },
    "delta": {
        "scheduler": SLURM,
        **torchrun(4, 16),
        "request": (
            "^#SBATCH --partition=gpuA100x4$", "^#SBATCH --gpus-per-node=4$", "^#SBATCH --ntasks-per-node=1$",
        ),
        "account": ("^#SBATCH --account=abcd-delta-gpu$",),
        "queue": ("^#SBATCH --partition=gpuA100x4$",),
        "exclusive": ("^#SBATCH --exclusive$", "^#SBATCH --mem=0$"),
        "launch": (SRUN,),
        "container": APPTAINER,
        "modules": ("^module load aws-ofi-nccl ",),
        "network": exports(NCCL_SOCKET_IFNAME="hsn"),
        "internet": NF,  # sources contradict each other
        "paths": ("^job=/work/hdd/abcd/runs/run$", scratch("/tmp")),
        "device": NF,
    },
    "leonardo": {
        "scheduler": SLURM,
        **torchrun(4, 8),
        "request": ("^#SBATCH --partition=boost_usr_prod$", "^#SBATCH --gres=gpu:4$", "^#SBATCH --cpus-per-task=32$"),
        "account": ("^#SBATCH --account=proj$",),
        "queue": ("^#SBATCH --partition=boost_usr_prod$",),
        "exclusive": ("^#SBATCH --exclusive$",),
        "launch": (SRUN,),
        "container": SINGULARITY,
        "modules": ("^module load profile/deeplrn$", "^module load cuda python/3.11.7$"),
        "network": NF,
        "internet": OFFLINE,
        "paths": ("^job=/leonardo_work/proj/ada/vllm-hpc/run$",),
        "device": NF,
    },
    "juwels-booster": {
        "scheduler": SLURM,
        **torchrun(4, 12),
        "request": ("^#SBATCH --partition=booster$", "^#SBATCH --gres=gpu:4$"),
        "account": ("^#SBATCH --account=proj$",),
        "queue": ("^#SBATCH --partition=booster$",),
        "exclusive": NF,
        "launch": (
            SRUN, "--cpus-per-task=48 ", '--rdzv-conf=rank="\\$node"',
            r'^VLLM_HPC_HEAD="\$\(add_suffix "\$\{nodes\[0\]\}" i\)"$',
        ),
        "container": APPTAINER,
        "modules": ("^module load Stages/2024$", "^module load GCC OpenMPI CUDA$"),
        "network": exports(NCCL_SOCKET_IFNAME="ib0", GLOO_SOCKET_IFNAME="ib0"),
        "internet": OFFLINE,
        "paths": ("^job=/p/scratch/proj/runs/run$",),
        "device": DEVICE,
    },
    "jupiter": {
        "scheduler": SLURM,
        **torchrun(4, 72),
        "request": ("^#SBATCH --partition=booster$", "^#SBATCH --gres=gpu:4$", "^#SBATCH --cpus-per-task=288$"),
        "account": ("^#SBATCH --account=proj$",),
        "queue": ("^#SBATCH --partition=booster$",),
        "exclusive": ("^#SBATCH --gres=gpu:4$", "^#SBATCH --cpus-per-task=288$"),  # all of a node
        "launch": (
            SRUN, r'^VLLM_HPC_HEAD="\$\(add_suffix "\$\{nodes\[0\]\}" -interconnect-1\.jupiter\.internal\)"$',
        ),
        "container": APPTAINER,
        "modules": ("^module load Stages/2026$",),
        "network": exports(NCCL_SOCKET_IFNAME="ib0", GLOO_SOCKET_IFNAME="ib0", NCCL_SOCKET_FAMILY="AF_INET"),
        "internet": OFFLINE,
        "paths": ("^job=/e/scratch/proj/runs/run$",),
        "device": DEVICE,
    },
    "mn5": {
        "scheduler": SLURM,
        **torchrun(4, 20),
        "request": ("^#SBATCH --gres=gpu:4$", "^#SBATCH --cpus-per-task=80$", "!--mem", "^#SBATCH --partition=acc$"),
        "account": ("^#SBATCH --account=proj$", "^#SBATCH --qos=acc_ehpc$"),
        "queue": ("^#SBATCH --qos=acc_ehpc$",),
        "exclusive": NF,
        "launch": (SRUN, "--cpus-per-task=80 "),
        "container": SINGULARITY,
        "modules": ("^module load miniforge/24.3.0-0$",),
        "network": (*exports(NCCL_SOCKET_IFNAME="ib0"), "^export UCX_NET_DEVICES=mlx5_0:1,"),
        "internet": OFFLINE,
        "paths": ("^job=/gpfs/scratch/proj/runs/run$", scratch(r'"\$\{TMPDIR:-/tmp\}"')),
        "device": NF,
    },
    "lumi": {
        "scheduler": SLURM,
        **torchrun(8, 7),
        "request": (
            "^#SBATCH --partition=standard-g$", "^#SBATCH --gpus-per-node=8$", "^#SBATCH --ntasks-per-node=1$",
            "^#SBATCH --cpus-per-task=56$", "^#SBATCH --mem=491520M$",
        ),
        "account": ("^#SBATCH --account=project_465000001$",),
        "queue": ("^#SBATCH --partition=standard-g$",),
        "exclusive": ("^#SBATCH --partition=standard-g$", "^#SBATCH --gpus-per-node=8$"),  # all of a node
        "launch": (SRUN, "--cpus-per-task=56 ", "torch.distributed.run .*--numa-binding=exclusive "),
        "container": (r"\bsingularity exec\b.* --rocm\b",),
        "modules": ("^module use /appl/local/laifs/modules$", "^module load lumi-aif-singularity-bindings$"),
        "network": exports(NCCL_SOCKET_IFNAME="hsn", NCCL_NET_GDR_LEVEL="PHB"),
        "internet": NF,  # sources contradict each other
        "paths": ("^job=/scratch/project_465000001/runs/run$",),
        "device": DEVICE,
    },
    "snellius": {
        "scheduler": SLURM,
        **torchrun(4, 16),
        "request": ("^#SBATCH --partition=gpu_h100$", "^#SBATCH --gpus-per-node=4$", "^#SBATCH --mem=737280M$"),
        "account": NF,  # often left out
        "queue": ("^#SBATCH --partition=gpu_h100$",),
        "exclusive": ("!--exclusive",),
        "launch": (SRUN, r'^VLLM_HPC_HEAD="\$\(add_suffix "\$\{nodes\[0\]\}" \.local\.snellius\.surf\.nl\)"$'),
        "container": APPTAINER,
        "modules": ("^module load 2024$", "^module load CUDA$"),
        "network": NotPossible("two sources name different interfaces, and NCCL stops at one that is not there"),
        "internet": OFFLINE,
        "paths": (
            "^job=/scratch-shared/ada/vllm-hpc/run$", scratch(r'"\$\{TMPDIR:-/tmp\}"'),
            "^#SBATCH --constraint=scratch-node$",
        ),
        "device": DEVICE,
    },
}  # fmt: skip

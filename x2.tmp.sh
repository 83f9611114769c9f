set -u
export PYTHONPATH=/tmp/site HF_HUB_OFFLINE=1 VLLM_ALLREDUCE_USE_SYMM_MEM=0 VLLM_USE_NCCL_SYMM_MEM=0 VLLM_USE_FLASHINFER_SAMPLER=0
unset PYTHONDONTWRITEBYTECODE
t0=$(date +%s)
one() { # gpu name kernels args...
  g=$1; n=$2; k=$3; shift 3
  VLLM_HPC_BENCHMARK_KERNELS=$k CUDA_VISIBLE_DEVICES=$g timeout 230 python3 -m benchmarks.gpu --gpus 1 --shapes llama-8b --prompts 2048 --times 1 --only attempt --seconds 220 --work /tmp/v$n --results /tmp/v$n.jsonl "$@" >/tmp/v$n.txt 2>&1
  echo "$n: $(( $(date +%s) - t0 )) s"; grep '^| llama' /tmp/v$n.txt; tail -3 /tmp/v$n/case-*/log | cut -c1-300 | tail -3
}
(one 0 splits 1 --engine 'attention_config={"flash_attn_max_num_splits_for_cuda_graph":1}'; one 0 base0 "") &
(one 1 seqs "" --engine max_num_seqs=1024 --engine 'compilation_config={"max_cudagraph_capture_size":1024}'; one 1 base1 "") &
wait
for n in splits; do grep -h -A14 'batches of' /tmp/v$n/case-*/log | cut -c1-110; done
cd /tmp; tar czf $OUT/all.tgz v*.jsonl v*.txt v*/case-*/log v*/case-*/*.kernels

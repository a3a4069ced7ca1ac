package onnx

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/hal"
)

// A wish is what a request asks for besides the model.
type wish struct {
	accelerator hal.Accelerator
	device      int               // number of the GPU
	cache       string            // folder for TensorRT's engines; "": none are kept
	session     map[string]string // of the session, whatever runs it
	provider    map[string]string // of CUDA or TensorRT, by their own names
}

var (
	flag   = regexp.MustCompile(`^[01]$`)
	number = regexp.MustCompile(`^[0-9]{1,15}$`)
	gpu    = regexp.MustCompile(`^gpu:([0-9]{1,3})$`)
)

// sessionSettings are the options of every session.
var sessionSettings = map[string]*regexp.Regexp{
	"graph_optimization_level":                 regexp.MustCompile(`^(disable|basic|extended|all)$`),
	"enable_cpu_mem_arena":                     flag,
	"enable_mem_pattern":                       flag,
	"session.intra_op.allow_spinning":          flag,
	"session.disable_prepacking":               flag,
	"session.set_denormal_as_zero":             flag,
	"mlas.enable_gemm_fastmath_arm64_bfloat16": flag,
}

var providerSettings = map[hal.Accelerator]map[string]*regexp.Regexp{
	hal.CUDA: {
		"gpu_mem_limit":                number,
		"arena_extend_strategy":        regexp.MustCompile(`^(kNextPowerOfTwo|kSameAsRequested)$`),
		"cudnn_conv_algo_search":       regexp.MustCompile(`^(EXHAUSTIVE|HEURISTIC|DEFAULT)$`),
		"cudnn_conv_use_max_workspace": flag,
		"enable_cuda_graph":            flag,
		"prefer_nhwc":                  flag,
		"use_tf32":                     flag,
	},
	hal.TensorRT: {
		"trt_auxiliary_streams":             number,
		"trt_bf16_enable":                   flag,
		"trt_builder_optimization_level":    regexp.MustCompile(`^[0-5]$`),
		"trt_context_memory_sharing_enable": flag,
		"trt_cuda_graph_enable":             flag,
		"trt_dla_core":                      number,
		"trt_dla_enable":                    flag,
		"trt_force_sequential_engine_build": flag,
		"trt_fp16_enable":                   flag,
		"trt_int8_enable":                   flag,
		"trt_layer_norm_fp32_fallback":      flag,
		"trt_max_partition_iterations":      number,
		"trt_max_workspace_size":            number,
		"trt_min_subgraph_size":             number,
		"trt_sparsity_enable":               flag,
	},
}

// newWish reads a request. A setting that is not known is refused, as one with a
// value that it cannot have.
func newWish(a hal.Accelerator, device string, settings map[string]string) (wish, error) {
	w := wish{accelerator: a, session: map[string]string{}, provider: map[string]string{}}
	known, isGPU := providerSettings[a]
	if !isGPU && a != hal.CPU {
		return w, errorf(hal.CodeAccel, "this runner cannot use %s; it has tensorrt, cuda and cpu", a)
	}
	if device != "" {
		found := gpu.FindStringSubmatch(device)
		if !isGPU || found == nil {
			return w, errorf(hal.CodeAccel, "device %.40q is none for %s: write gpu:0, gpu:1, …, for tensorrt and cuda alone", device, a)
		}
		w.device, _ = strconv.Atoi(found[1])
	}
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		value := settings[key]
		into, pattern := w.session, sessionSettings[key]
		if pattern == nil && known[key] != nil {
			into, pattern = w.provider, known[key]
		}
		switch {
		case strings.HasPrefix(key, shapeSetting):
		case key == "cache":
			if !filepath.IsAbs(value) || filepath.Clean(value) != value || value == "/" {
				return w, errorf(hal.CodeAccel, "setting cache %.80q is no absolute path of a folder", value)
			}
			w.cache = value
		case pattern == nil:
			return w, errorf(hal.CodeAccel, "%s has no setting %.60q; it has shape.<input>, %s", a, key, list(sessionSettings, known))
		case !pattern.MatchString(value):
			return w, errorf(hal.CodeAccel, "setting %s of %s cannot be %.40q; it has to be %s", key, a, value, pattern)
		default:
			into[key] = value
		}
	}
	return w, nil
}

func list(tables ...map[string]*regexp.Regexp) string {
	var all []string
	for _, t := range tables {
		all = append(all, slices.Collect(maps.Keys(t))...)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// options is the text of what is asked for, the same for equal wishes.
func (w wish) options() string {
	return fmt.Sprintf("%s %d %v %v", w.accelerator, w.device, w.session, w.provider)
}

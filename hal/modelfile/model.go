package modelfile

import "github.com/covey-edge/covey/hal"

// A Model is what a model file says about itself. Every index in it is in range.
type Model struct {
	Format      string // FormatTFLite or FormatONNX, also the name of the engine that runs it
	Size        int64  // of the file, bytes
	Version     int    // of the schema: 3 of TFLite, the IR version of ONNX
	Description string
	OpCodes     []OpCode
	Subgraphs   []Subgraph // the first is the main graph; at least one
	MinRuntime  string     // "1.14.0"; "" when the file does not say
	Metadata    *Metadata  // nil when the file has none
	ONNX        *ONNX      // nil for a .tflite file
	Files       []File     // packed behind the model
	FilesErr    error      // why Files could not be read; nil when there are none
}

// An OpCode is an operator that the graphs use.
type OpCode struct {
	Builtin int    // number in the schema, OpCustom for a custom operator
	Custom  string // its name
	Version int
	Domain  string // of an ONNX operator; "" is ONNX's own
	Name    string // of an ONNX operator: "Conv"
}

// Numbers of the operators that matter to us, from the TFLite schema.
const (
	OpDequantize = 6
	OpLogistic   = 14
	OpReshape    = 22
	OpSoftmax    = 25
	OpCustom     = 32
	OpSqueeze    = 43
	OpLogSoftmax = 50
	OpQuantize   = 114
)

// DetectionPostProcess is the one custom operator that TFLite's own library has:
// the end of an SSD detector. Its outputs are boxes, classes, scores, count.
const DetectionPostProcess = "TFLite_Detection_PostProcess"

const edgeTPUOp = "edgetpu-custom-op"

// A Subgraph is one graph. Inputs and Outputs index Tensors.
type Subgraph struct {
	Name      string
	Tensors   []Tensor
	Inputs    []int
	Outputs   []int
	Operators []Operator
}

// A Tensor of a graph. Shape is what is allocated at first; Signature, when it
// is not nil, has -1 where that may change.
type Tensor struct {
	hal.TensorInfo
	Signature []int
	Constant  bool     // its value is in the file
	Variable  bool     // its value is kept between runs
	Symbols   []string // names of an ONNX tensor's unknown dimensions, beside Shape; nil when all are known
	Kind      string   // what an ONNX value is whose bytes have no type here: "a sequence", "bfloat16"; "" for all others
}

// An Operator is a node. Inputs and Outputs index the graph's Tensors; an input
// of -1 is left out.
type Operator struct {
	Code    int // index into Model.OpCodes
	Inputs  []int
	Outputs []int
}

// A File is a small file that is packed behind the model as a ZIP archive.
type File struct {
	Name string
	Data []byte
}

// Main is the main graph.
func (m *Model) Main() *Subgraph { return &m.Subgraphs[0] }

// Inputs describes the inputs of the main graph.
func (m *Model) Inputs() []hal.TensorInfo { return m.infos(m.Main().Inputs) }

// Outputs describes the outputs of the main graph. Shapes that are computed at
// run time may be empty here.
func (m *Model) Outputs() []hal.TensorInfo { return m.infos(m.Main().Outputs) }

func (m *Model) infos(index []int) []hal.TensorInfo {
	infos := make([]hal.TensorInfo, len(index))
	for i, t := range index {
		infos[i] = m.Main().Tensors[t].TensorInfo
	}
	return infos
}

// Find returns the first operator of the main graph with this custom name, nil
// when there is none.
func (m *Model) Find(custom string) *Operator {
	g := m.Main()
	for i, o := range g.Operators {
		if m.OpCodes[o.Code].Builtin == OpCustom && m.OpCodes[o.Code].Custom == custom {
			return &g.Operators[i]
		}
	}
	return nil
}

// Producer returns the operator of the main graph that writes a tensor, nil when
// none does.
func (m *Model) Producer(tensor int) *Operator {
	g := m.Main()
	for i, o := range g.Operators {
		for _, t := range o.Outputs {
			if t == tensor {
				return &g.Operators[i]
			}
		}
	}
	return nil
}

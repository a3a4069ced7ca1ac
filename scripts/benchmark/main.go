// Command benchmark measures Covey against a bare C loop on the same library,
// model, flags and picture, in rounds that alternate between the two, so that a
// disturbed machine disturbs both. scripts/bench builds what it needs and starts it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// A bench is what every part needs to know.
type bench struct {
	bin    string // folder of our programs
	models string // folder of models, as scripts/setup makes it
	work   string // a folder for our files, removed at the end
	bare   bare
	onnx   onnxLoops
	peers  peers
	rounds int
}

// A part measures one thing and gives its rows.
type part struct {
	name string
	run  func(*bench, context.Context) ([]row, error)
}

var parts = []part{
	{"size", (*bench).size},
	{"invoke", (*bench).invoke},
	{"onnx", (*bench).invokeONNX},
	{"auto", (*bench).auto},
	{"frames", (*bench).frames},
	{"camera", (*bench).camera},
	{"first", (*bench).first},
	{"update", (*bench).update},
	{"delta", (*bench).delta},
	{"link", (*bench).link},
	{"wear", (*bench).wear},
	{"idle", (*bench).idle},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	b := &bench{}
	asJSON := flag.Bool("json", false, "print rows as JSON")
	only := flag.String("only", "", "parts to run, by comma: size, invoke, onnx, auto, frames, camera, first, update, delta, link, wear, idle")
	flag.StringVar(&b.bin, "bin", "bin", "folder of covey-agent and the others")
	flag.StringVar(&b.models, "models", "", "folder of models")
	flag.StringVar(&b.bare.program, "bare", "", "the bare C program")
	flag.StringVar(&b.onnx.program, "bare-onnx", "", "the bare C program for ONNX Runtime")
	flag.StringVar(&b.onnx.library, "onnxruntime", "", "the libonnxruntime.so that both use")
	flag.StringVar(&b.onnx.python, "python-onnx", "", "folder of Python's onnxruntime; \"\": not measured")
	flag.StringVar(&b.peers.sample, "sample", "", "go-tflite's own loop; \"\": not measured")
	flag.StringVar(&b.peers.python, "python-tflite", "", "folder of Python's ai-edge-litert; \"\": not measured")
	flag.IntVar(&b.bare.threads, "threads", 1, "threads of the engine, on both sides")
	flag.IntVar(&b.rounds, "rounds", 7, "rounds of each part")
	flag.Parse()
	var err error
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp("", "covey-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)

	var rows []row
	failed := 0
	for _, p := range parts {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), p.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s\n", p.name)
		got, err := p.run(b, ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", p.name, err)
			failed++
		}
		rows = append(rows, got...)
	}
	if *asJSON {
		err = printJSON(os.Stdout, rows)
	} else {
		print(os.Stdout, rows)
	}
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d parts could not be measured", failed)
	}
	return err
}

func (b *bench) mobilenet() string { return b.models + "/label_image/mobilenet_quant_v1_224.tflite" }

// tiny is a model that runs in 30 µs.
func (b *bench) tiny() string { return b.models + "/audio/hey_jarvis.tflite" }

// progress says which round runs.
func (b *bench) progress(part string, round int) {
	fmt.Fprintf(os.Stderr, "bench: %s, round %d of %d\n", part, round+1, b.rounds)
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

const detectExample = `  # what is in a picture
  covey-agent detect --model mobilenet_quant_v1_224.tflite --labels labels.txt peacock.png

  # boxes, drawn into a copy
  covey-agent detect --model detect.tflite --labels labelmap.txt --out annotated.jpg example.jpg

  # many pictures, a line of JSON each
  covey-agent detect --model detect.tflite --json pictures/*.jpg`

type detectFlags struct {
	pipeline    agent.PipelineFile
	accelerator string
	json        bool
	out         string
	verbose     bool
}

func detectCommand() *cobra.Command {
	var f detectFlags
	cmd := &cobra.Command{
		Use:     "detect --model FILE PICTURE…",
		Short:   "Run a model on pictures, once, without any broker",
		Example: detectExample,
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return detect(cmd, f, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.pipeline.Model, "model", "", "model file")
	flags.StringVar(&f.pipeline.Labels, "labels", "", "file with a label a line (default: the model's own)")
	flags.StringVar(&f.accelerator, "accelerator", "auto", "cpu, xnnpack, gpu, edgetpu, cuda, tensorrt, external:<library>; auto takes the first that opens")
	flags.IntVar(&f.pipeline.Threads, "threads", 0, "threads of the engine (default: it chooses)")
	flags.Float32Var(&f.pipeline.Threshold, "threshold", 0, "least score, above 0 to 1 (default: by task)")
	flags.IntVar(&f.pipeline.Top, "top", 0, "most answers for a picture (default: by task)")
	flags.BoolVar(&f.json, "json", false, "print results as JSON, a line each")
	flags.StringVar(&f.out, "out", "", "write the picture with what was seen; a folder for many pictures")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "log what happens")
	for _, err := range []error{
		cmd.MarkFlagRequired("model"),
		cmd.MarkFlagFilename("model", "tflite", "onnx"),
		cmd.RegisterFlagCompletionFunc("accelerator", cobra.FixedCompletions([]cobra.Completion{"auto", "cpu", "xnnpack", "gpu", "edgetpu", "cuda", "tensorrt"}, cobra.ShellCompDirectiveNoFileComp)),
	} {
		if err != nil {
			panic(err) // the flags are above
		}
	}
	return cmd
}

func detect(cmd *cobra.Command, f detectFlags, pictures []string) error {
	switch p := f.pipeline; { // as in a configuration
	case !(p.Threshold >= 0 && p.Threshold <= 1):
		return fmt.Errorf("--threshold %v: give a number above 0 to 1", p.Threshold)
	case p.Threads < 0 || p.Threads > 64:
		return fmt.Errorf("--threads %d: give a number from 1 to 64", p.Threads)
	case p.Top < 0 || p.Top > 1000:
		return fmt.Errorf("--top %d: give a number from 1 to 1000", p.Top)
	}
	level := "warn"
	if f.verbose {
		level = "debug"
	}
	log := logger(os.Stderr, level)
	all, err := engines(nil, nil, log)
	if err != nil {
		return err
	}
	hurry(cmd.Context(), all)
	f.pipeline.Name, f.pipeline.Accelerator = "detect", hal.Accelerator(f.accelerator)
	d, err := agent.NewDetector(cmd.Context(), all, f.pipeline, log)
	if err != nil {
		return err
	}
	defer d.Close()
	bad := 0
	for _, p := range pictures {
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		if err := detectOne(cmd.OutOrStdout(), d, f, p, len(pictures) > 1, log); err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), "covey-agent:", err)
			bad++
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d pictures gave no result", bad, len(pictures))
	}
	return nil
}

func detectOne(w io.Writer, d *agent.Detector, f detectFlags, path string, many bool, log zerolog.Logger) error {
	r, frame, err := d.Detect(path)
	if err != nil {
		return err
	}
	if f.json {
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\n", b)
	} else {
		fmt.Fprintln(w, sentence(r))
	}
	if f.out == "" {
		return nil
	}
	to := f.out
	if many {
		if err := os.MkdirAll(f.out, 0o755); err != nil {
			return err
		}
		to = filepath.Join(f.out, strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))+".jpg")
	}
	return agent.Annotate(to, frame, r)
}

// sentence is a result as a person reads it: "peacock.png → peacock 0.99, 14.8 ms, xnnpack".
func sentence(r *wire.Result) string {
	var seen []string
	for _, it := range r.Items {
		name := it.Label
		if name == "" {
			name = fmt.Sprint("#", it.ID)
		}
		seen = append(seen, fmt.Sprintf("%s %.2f", name, it.Score))
	}
	if len(seen) == 0 {
		seen = []string{"nothing"}
	}
	return fmt.Sprintf("%s → %s, %.1f ms, %s", r.Name, strings.Join(seen, ", "), r.LatMS.Inv, r.Accel)
}

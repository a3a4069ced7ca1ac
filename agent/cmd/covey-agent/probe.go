package main

import (
	"encoding/json"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/hal"
)

func probeCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "List cameras, microphones and sensors, by the names to configure them with",
		Long: "List cameras, microphones, sensors, serial ports and lines that are plugged in. TYPE and DEVICE are what\n" +
			"a source in the configuration is told, as in\n\n" +
			"  source: {type: v4l2, device: \"usb-046d:0825-A1B2C3D4\"}\n\n" +
			"DEVICE stays the same after a restart and in another socket. DETAIL says what it can do, or why it cannot\n" +
			"be used. Nothing is opened for good, and what is in use is not disturbed.",
		Example: "  covey-agent probe\n  covey-agent probe --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all := inputs(os.DirFS("/"))
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				if all == nil {
					all = []hal.Input{}
				}
				return e.Encode(all)
			}
			fmt.Fprint(cmd.OutOrStdout(), socket(firmware.Detect(os.DirFS("/"))))
			if len(all) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing is plugged in that can be a source; folder, wav, mjpeg, rtsp, exec and mqtt are configured without")
				return nil
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(t, "TYPE\tDEVICE\tNAME\tDETAIL")
			for _, i := range all {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", i.Source, i.ID, i.Name, i.Detail)
			}
			return t.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// socket is a line about the camera on the board's own socket, "" where there is none.
func socket(b firmware.Board) string {
	switch b.Profile.Camera {
	case firmware.RPiCam, firmware.NVArgus:
		return b.Profile.Name + ": a camera on its own socket is read by type csi, all others by v4l2\n"
	case firmware.V4L2:
		return b.Profile.Name + ": a camera on its own socket, where its maker has a driver, is read by type v4l2, as all others are\n"
	}
	return ""
}

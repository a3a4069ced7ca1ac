package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/fleet/wire"
)

const joinExample = `  # the token comes from the operator: covey device token
  covey-agent join --config agent.yaml covey-join-eyJ1cmwi…

  # out of a file, so that it stays out of the shell's history
  covey-agent join --config agent.yaml - < token.txt`

func joinCommand() *cobra.Command {
	var config, device string
	cmd := &cobra.Command{
		Use:     "join TOKEN",
		Short:   "Join a fleet: make a key, get a certificate from its controller",
		Example: joinExample,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := agent.ReadFile(config)
			if err != nil {
				return err
			}
			if device != "" {
				file.Device = wire.DeviceID(device)
			}
			token, err := readToken(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			id, err := agent.Join(cmd.Context(), file, token)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "joined %s as %s; its key and certificate are in %s\n", token.URL, id, agent.IdentityPath(file.Data))
			return nil
		},
	}
	configFlag(cmd, &config)
	cmd.Flags().StringVar(&device, "device", "", "id to join under (default: the configuration's)")
	return cmd
}

func readToken(arg string, in io.Reader) (wire.JoinToken, error) {
	if arg != "-" {
		return wire.ParseJoinToken(arg)
	}
	line, err := bufio.NewReader(io.LimitReader(in, 8192)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return wire.JoinToken{}, fmt.Errorf("read the token: %w", err)
	}
	return wire.ParseJoinToken(strings.TrimSpace(line))
}

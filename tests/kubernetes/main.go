// Command cluster runs real Kubernetes clusters on one Linux machine, without
// Docker and without touching the machine's own network.
//
// One binary is everything: it is the orchestrator, and under the names of the
// Kubernetes components (argv[0]) it is each of those components.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin")
	var err error
	switch name := filepath.Base(os.Args[0]); {
	case name == "etcd":
		etcdmain.Main(os.Args)
	case name == "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case name == "kube-controller-manager":
		os.Exit(cli.Run(controllermanager.NewControllerManagerCommand()))
	case name == "kube-scheduler":
		os.Exit(cli.Run(scheduler.NewSchedulerCommand()))
	case name == "kubelet":
		os.Exit(cli.Run(kubelet.NewKubeletCommand(context.Background())))
	case name == "kube-proxy":
		os.Exit(cli.Run(proxy.NewProxyCommand()))
	case name == "kubectl":
		runKubectl()
	case name == initName:
		err = runInit(os.Args[1])
	case strings.HasPrefix(name, nodePrefix):
		err = runNode(os.Args[1], name)
	default:
		err = newCommand().Execute()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	var c Cluster
	root := &cobra.Command{
		Use:              "cluster",
		Short:            "Real Kubernetes clusters on one machine, each in its own namespaces",
		TraverseChildren: true, // --name before kubectl is ours, after it kubectl's
		SilenceUsage:     true,
		SilenceErrors:    true,
	}
	root.PersistentFlags().StringVar(&c.Name, "name", envOr("CLUSTER_NAME", "dev"), "cluster name (or $CLUSTER_NAME)")
	root.PersistentFlags().StringVar(&c.Dir, "workdir", os.Getenv("CLUSTER_WORKDIR"),
		"directory for all of the cluster's files (or $CLUSTER_WORKDIR; default /var/tmp/cluster/NAME)")
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return c.locate() }

	up := &cobra.Command{Use: "up", Short: "Start the cluster and wait until it is ready", Args: cobra.NoArgs}
	nodes := up.Flags().Int("nodes", 1, "number of nodes")
	timeout := up.Flags().Duration("timeout", 2*time.Minute, "how long to wait for readiness")
	flags := up.Flags().StringArray("flag", nil, "extra flag for a component, such as kube-apiserver=--v=4 (repeatable)")
	up.RunE = func(*cobra.Command, []string) error { return c.up(*nodes, *flags, *timeout) }

	down := &cobra.Command{Use: "down", Short: "Stop the cluster and remove every trace of it", Args: cobra.NoArgs}
	keepLogs := down.Flags().Bool("keep-logs", false, "leave the logs in the workdir")
	down.RunE = func(*cobra.Command, []string) error { return c.down(*keepLogs) }

	load := &cobra.Command{Use: "load-image REF BINARY[:DEST] [FILE[:DEST]...]",
		Short: "Make an image of a static binary (and more files) and import it into every node",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := c.loadRunning(); err != nil {
				return err
			}
			return c.importImage(args[0], args[1:])
		}}

	archive := &cobra.Command{Use: "import-archive FILE", Short: "Import an image archive (OCI layout or docker save) into every node; - is standard input",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := c.loadRunning(); err != nil {
				return err
			}
			return c.importArchive(args[0])
		}}

	kubeconfig := &cobra.Command{Use: "kubeconfig", Short: "Print the path of the admin kubeconfig", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.load(); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), c.path("kubeconfig"))
			return err
		}}

	exec := &cobra.Command{Use: "exec [--node NODE] -- COMMAND [ARG...]",
		Short: "Run a command in the cluster's network, with KUBECONFIG and cluster DNS", Args: cobra.MinimumNArgs(1)}
	exec.Flags().SetInterspersed(false)
	node := exec.Flags().String("node", "", "enter all of this node's namespaces instead")
	exec.RunE = func(_ *cobra.Command, args []string) error { return c.exec(*node, args) }

	kubectl := &cobra.Command{Use: "kubectl [ARG...]", Short: "Run kubectl against the cluster", DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := c.load(); err != nil {
				return err
			}
			for _, variable := range c.env() {
				name, value, _ := strings.Cut(variable, "=")
				os.Setenv(name, value)
			}
			os.Args = append([]string{"kubectl"}, args...)
			runKubectl()
			return nil
		}}

	status := &cobra.Command{Use: "status", Short: "Show the processes; fails unless all is well", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return c.status() }}

	logs := &cobra.Command{Use: "logs [-f] COMPONENT", Short: "Show a component's log, such as etcd, kubelet or node-2-kubelet",
		Args: cobra.ExactArgs(1)}
	follow := logs.Flags().BoolP("follow", "f", false, "keep following")
	logs.RunE = func(_ *cobra.Command, args []string) error { return c.logs(args[0], *follow) }

	root.AddCommand(up, down, load, archive, kubeconfig, exec, kubectl, status, logs)
	return root
}

// runKubectl is kubectl's own main function.
func runKubectl() {
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
}

func envOr(key, fallback string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return fallback
}

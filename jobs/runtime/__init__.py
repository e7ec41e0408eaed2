"""What every job uses: tracking, the cluster, run folders, disks."""

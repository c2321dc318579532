"""What every service process needs: settings, lifecycle, database, errors, gRPC, telemetry, logs."""
